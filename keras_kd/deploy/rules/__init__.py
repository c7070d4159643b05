"""What each runtime takes: a module for each, with `judge(subject, device) -> Verdict`."""
