import plumbing  # noqa: F401                     first: Ctrl-C while torch is imported is quiet
