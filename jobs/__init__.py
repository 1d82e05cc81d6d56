"""The batch job: manifest → plan → load → score → commit, as the `artimuse` command."""
