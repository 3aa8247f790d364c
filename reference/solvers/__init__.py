"""The solvers behind the exact optima, each with a certificate."""
