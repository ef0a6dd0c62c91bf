"""`pgpoolctl check`: one module for each subject."""
