"""Pictures in SVG, as pure functions of what they show: no I/O, no clock, no style sheets, no scripts."""
