"""One file per experiment: what it trains, the command, the cost, the score to expect."""
