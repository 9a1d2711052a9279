//go:build !unix

package pipeline_test

import "errors"

func ownCPU() (float64, error) { return 0, errors.ErrUnsupported }
