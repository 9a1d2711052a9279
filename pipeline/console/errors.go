package console

import "errors"

var (
	// ErrConfig is wrapped by every error about a configuration that cannot be used.
	ErrConfig = errors.New("console: invalid configuration")
	// ErrReadOnly is the error of every action while Config.Authorize is nil.
	ErrReadOnly = errors.New("console: this console only reads")
	// ErrForbidden is wrapped by the error of an action that Config.Authorize refused.
	ErrForbidden = errors.New("console: not allowed")
	// ErrNotFound is wrapped by the error about a pipeline, a batch or a record that is not there.
	ErrNotFound = errors.New("console: not found")
	// ErrArgument is wrapped by the error about a request that cannot be used.
	ErrArgument = errors.New("console: invalid request")
	// ErrUnavailable is wrapped by the error of an action for which the pipeline lacks a part.
	ErrUnavailable = errors.New("console: this pipeline has no such part")
	// ErrNoTable reports that the database does not hold the tables of the pipeline: no worker has
	// started yet.
	ErrNoTable = errors.New("console: the database does not have the table yet")
)
