"""Backdoor detectors behind one interface: `detector.scan(model, data)` → score and evidence."""
