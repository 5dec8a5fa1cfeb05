"""Terminals to test with: firmware that boots from its flash, cards, links and faults."""
