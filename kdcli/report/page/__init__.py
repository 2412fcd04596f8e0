"""Pages of a report: HTML, Markdown and the model card of one run, and the page of a gap."""
