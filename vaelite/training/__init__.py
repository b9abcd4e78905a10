"""The one visible loop, what lets it go on after a stop, and what spreads it over devices."""
