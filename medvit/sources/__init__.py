"""Where bytes come from: each file of this room turns one kind of source into a list of local files."""
