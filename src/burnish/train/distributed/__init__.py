"""One run on many processes: engines, the shares of rows, what each engine refuses, and the launcher."""
