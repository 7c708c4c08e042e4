"""What may go wrong and why: the machine, the installation, and the curves of a run."""
