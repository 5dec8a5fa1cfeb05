"""The field engineer's verbs: find, configure, re-key, flash and read out terminals."""
