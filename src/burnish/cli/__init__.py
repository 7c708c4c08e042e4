"""The command line: one thin file per command. Heavy imports wait inside the commands, so that --help is quick."""
