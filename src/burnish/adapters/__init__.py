"""Parameter-efficient methods behind one interface: one file per method."""
