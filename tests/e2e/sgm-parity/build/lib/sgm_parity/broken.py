raise SystemExit("this module must not be imported unless its component is used")
