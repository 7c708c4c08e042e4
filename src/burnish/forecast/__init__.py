"""What a recipe will take: its memory and time before it starts, held against what it took afterwards."""
