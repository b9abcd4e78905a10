"""From a CT and its structures to a plan, the dose on another CT, and the verdict: DVH, gamma, maps."""
