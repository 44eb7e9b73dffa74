"""What a page asks for beside a run's records once it has drawn: what a network confuses, what another one would be."""
