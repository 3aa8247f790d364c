"""The paper's figures: numbers first (JSON and npz), then the picture drawn from the numbers."""
