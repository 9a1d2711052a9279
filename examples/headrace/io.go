package main

import (
	"io"
	"os"
)

// stdin is where answers and records come from.
var stdin io.Reader = os.Stdin
