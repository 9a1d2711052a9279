package console

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// BookLine is one equation of the books.
type BookLine struct {
	Name      string `json:"name"`
	Imbalance int64  `json:"imbalance"`
	Sum       string `json:"sum"`
}

// Verdict is the state of a pipeline in one line.
type Verdict struct {
	// State is "ok", "stuck", "lost" or "unknown". "lost" means that the books do not balance.
	State string `json:"state"`
	Text  string `json:"text"`
}

// The states of a [Verdict].
const (
	verdictOK      = "ok"
	verdictStuck   = "stuck"
	verdictLost    = "lost"
	verdictUnknown = "unknown"
)

// Overview answers, in this order: is anything lost or stuck, how far behind is the pipeline, what
// was rejected.
type Overview struct {
	Common
	Verdict Verdict    `json:"verdict"`
	Books   []BookLine `json:"books"`
	// Summing reports that a large ledger is summed for the first time: its lines follow.
	Summing bool `json:"ledger_being_summed,omitempty"`
	// Note is why the two stores are not compared.
	Note    string              `json:"note,omitempty"`
	Stalls  []pipeline.Stall    `json:"stalls"`
	Queue   *queue.Stats        `json:"queue"`
	Unacked *int64              `json:"committed_not_acked"`
	Staged  *Staged             `json:"staged"`
	Gate    *backpressure.Stats `json:"gate"`
	High    int64               `json:"gate_high,omitempty"`
	Minutes []Minute            `json:"minutes"`
	History History             `json:"history"`
	Codes   []CodeCount         `json:"rejects_by_code"`
	// Stages is what the stages of the chain did with the records committed since StagesSince, about
	// the last minutes.
	Stages      []StageLine `json:"stages"`
	StagesSince *time.Time  `json:"stages_since,omitempty"`
}

// overviewModel is the overview with the charts of its page.
type overviewModel struct {
	Overview
	Throughput, Delay, Depth chart `json:"-"`
}

// StageLine is what a stage of the chain did.
type StageLine struct {
	Stage      string `json:"stage"`
	Entered    int64  `json:"entered"`
	Duplicates int64  `json:"duplicates"`
	Filtered   int64  `json:"filtered"`
	Rejected   int64  `json:"rejected"`
	Passed     int64  `json:"passed"`
}

func buildOverview(ctx context.Context, p *pipe, _ *http.Request) (model, error) {
	wanted := []refresher{p.stats, p.books, p.staged, p.minutes, p.codes}
	if p.gate != nil {
		wanted = append(wanted, p.gate)
	}
	await(ctx, wanted...)
	o := &overviewModel{Overview: Overview{Common: newCommon(), High: p.High}}
	o.Queue = take(&o.Common, p.stats)
	books := take(&o.Common, p.books)
	o.Staged = take(&o.Common, p.staged)
	if p.gate != nil {
		o.Gate = take(&o.Common, p.gate)
	}
	if m := take(&o.Common, p.minutes); m != nil {
		o.Minutes = *m
	}
	if c := take(&o.Common, p.codes); c != nil {
		o.Codes = *c
	}
	o.Verdict, o.Books, o.Stalls = verdict(books, o.Staged)
	o.Stages = []StageLine{}
	if books != nil {
		for _, s := range books.books.Stages {
			o.Stages = append(o.Stages, StageLine{visible(s.Stage), s.Entered, s.Duplicates, s.Filtered, s.Rejected, s.Passed()})
		}
		if len(o.Stages) > 0 {
			o.StagesSince = &books.since
		}
		o.Note, o.Summing = books.note, books.summing
		if o.Note == "" || books.books.Unacked > 0 {
			o.Unacked = &books.books.Unacked
		}
	}
	o.History = p.ring.history(o.At)
	o.Throughput, o.Delay = throughputChart(o.Minutes, o.At), delayChart(o.Minutes, o.At)
	o.Depth = depthChart(o.History, p.High, o.At)
	return o, nil
}

// verdict judges the books, and lists their lines and what is stuck.
func verdict(set *bookSet, staged *Staged) (v Verdict, lines []BookLine, stalls []pipeline.Stall) {
	lines, stalls = []BookLine{}, []pipeline.Stall{}
	if set == nil {
		return Verdict{verdictUnknown, "The books could not be read."}, lines, stalls
	}
	b := set.books
	for i, l := range b.Lines() {
		if set.table && !set.summing || i == 0 {
			lines = append(lines, BookLine{l.Name, l.Imbalance(), l.Sum})
		}
	}
	stalls = append(stalls, b.Stalls...)
	if staged != nil && staged.FailingSince != nil {
		stalls = append(stalls, pipeline.Stall{Step: "promoting", Since: *staged.FailingSince, Failures: int(staged.Failures), Reason: staged.Failure})
	}
	for i := range stalls {
		stalls[i].Reason = oneLine(stalls[i].Reason)
	}
	switch err := b.Balanced(); {
	case err != nil:
		return Verdict{verdictLost, "The books do not balance: records are lost or counted twice."}, lines, stalls
	case len(stalls) > 0:
		return Verdict{verdictStuck, "Nothing is lost, but a step fails again and again."}, lines, stalls
	case b.Redis.BrokenBatches > 0:
		return Verdict{verdictStuck, fmt.Sprintf("%s batches are broken: keys of them were deleted or overwritten.", exact(b.Redis.BrokenBatches))}, lines, stalls
	case b.Redis.Paused:
		return Verdict{verdictStuck, "Nothing is lost. The queue is paused: no worker leases."}, lines, stalls
	case set.summing:
		return Verdict{verdictUnknown, "Nothing is stuck. Whether anything is lost is shown when the ledger has been summed."}, lines, stalls
	}
	return Verdict{verdictOK, "Nothing is lost and nothing is stuck."}, lines, stalls
}
