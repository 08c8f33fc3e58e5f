"""Episodes on several workers: processes of this machine, or actors of Ray on many."""
