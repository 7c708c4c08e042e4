"""What may go wrong and why: the machine and the installation."""
