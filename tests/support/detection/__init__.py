"""Support of the tests of detection: odd images, and the peers."""
