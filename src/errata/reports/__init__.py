"""Results in; tables, summaries, figures and pages out: what a run is shown as, on a terminal and in its folder."""
