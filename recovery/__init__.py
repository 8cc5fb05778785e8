"""The privacy officer's acts on the command line: reveal, erase, expire, rotate. The acts themselves are SQL, in database/."""
