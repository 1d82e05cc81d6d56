"""The batch job and the `artimuse` command: manifest → plan → load → score → commit → evaluate → curate, report."""
