"""Files and hubs become dialogues."""
