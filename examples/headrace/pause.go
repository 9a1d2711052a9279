package main

import "context"

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
	return s.print(map[string]bool{"paused": true}, "paused: workers finish what they hold and lease nothing\n")
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
	return s.print(map[string]bool{"paused": false}, "resumed: workers lease again\n")
}
