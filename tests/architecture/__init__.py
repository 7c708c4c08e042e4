"""The shape of the package, held by reading its source; nothing of it is imported here."""
