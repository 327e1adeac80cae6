"""`python -m candlewick`."""

from candlewick.cli.main import main

raise SystemExit(main())
