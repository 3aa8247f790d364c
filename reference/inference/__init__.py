"""What data say: fits with their uncertainty, and whether one annotator can have judged."""
