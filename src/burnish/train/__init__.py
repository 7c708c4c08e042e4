"""`RunConfig`, the one loop, and a run from recipe to hand-over."""
