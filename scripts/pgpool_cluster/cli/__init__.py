"""Arguments in, exit status out: the verbs of pgpoolctl, and the hooks."""
