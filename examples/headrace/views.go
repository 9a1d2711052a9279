package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headrace/headrace/examples/internal/ops"
	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/matview"
)

// views are the dashboard views.
type views struct {
	List    viewList    `cmd:"" help:"Show the freshness of the views."`
	Refresh viewRefresh `cmd:"" help:"Refresh views, and those that they read."`
}

type viewList struct{}

// Run lists the views of the set. It only reads.
func (viewList) Run(ctx context.Context, s *session) error {
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	list, err := ops.Views(ctx, pool, s.Views)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		s.Say("the database %s has no set of views %s", pool.Config().ConnConfig.Database, s.Views)
	}
	var text strings.Builder
	width, _ := program.Width(s.Out)
	for _, v := range list {
		fmt.Fprintln(&text, program.Wrap("", v.Text(), width))
	}
	return s.print(map[string]any{"views": list}, text.String())
}

type viewRefresh struct {
	Views []string `arg:"" optional:"" name:"view" help:"Names of views (default: all of the set)."`
}

type refreshed struct {
	View    string  `json:"view"`
	Action  string  `json:"action"`
	Seconds float64 `json:"seconds"`
}

// Run refreshes the views in dependency order. It knows them from the database, so the set may be
// of any pipeline.
func (v *viewRefresh) Run(ctx context.Context, s *session) error {
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	set, err := matview.Open(ctx, pool, s.Views, matview.Config{})
	if err != nil {
		return err
	}
	report, err := set.Refresh(ctx, v.Views...)
	if errors.Is(err, matview.ErrUnknownView) {
		return fmt.Errorf("%w: headrace views list shows those of the set %s", err, s.Views)
	}
	if err != nil {
		return err
	}
	var text strings.Builder
	list := []refreshed{}
	for _, v := range report.Views {
		list = append(list, refreshed{v.View, v.Action.String(), v.Duration.Seconds()})
		fmt.Fprintf(&text, "%s: %s in %v\n", v.View, v.Action, v.Duration.Round(time.Millisecond))
	}
	return s.print(map[string]any{"views": list}, text.String())
}
