"""One file a command: its options, what it asks of kdcli.jobs, what it shows."""
