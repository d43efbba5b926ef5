"""Published models: package data, listed with their hashes in `manifest.json`."""
