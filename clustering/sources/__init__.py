"""Where texts come from: files of many formats, or a collection; distinct texts and records out."""
