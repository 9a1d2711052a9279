package main

import (
	"context"
	"fmt"
)

// pause keeps every worker from leasing; what is leased goes on.
type pause struct{}

// Run pauses the queue.
func (pause) Run(ctx context.Context, s *session) error {
	q, err := s.queue(ctx)
	if err != nil {
		return err
	}
	if err := q.Pause(ctx); err != nil {
		return err
	}
	return s.print(map[string]bool{"paused": true}, fmt.Sprintf("paused the queue %s: workers finish what they hold and lease nothing\n", s.Queue))
}

// resume ends a pause.
type resume struct{}

// Run resumes the queue.
func (resume) Run(ctx context.Context, s *session) error {
	q, err := s.queue(ctx)
	if err != nil {
		return err
	}
	if err := q.Resume(ctx); err != nil {
		return err
	}
	return s.print(map[string]bool{"paused": false}, fmt.Sprintf("resumed the queue %s: workers lease again\n", s.Queue))
}
