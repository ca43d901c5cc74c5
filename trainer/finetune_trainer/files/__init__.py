"""Files that appear whole and survive a power cut, and locks that end with their process."""
