"""The kit for tests of what is built on hubstate, and of hubstate itself."""
