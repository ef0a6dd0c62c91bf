"""Claim a term, cut nodes off from a former primary, and become the primary."""
