package console

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// FindPage is where a record or a batch is.
type FindPage struct {
	Common
	ID string `json:"id"`
	// Batch is the batch of that id in the ledger, Letter the dead letter, InFlight the batch in the
	// queue.
	Batch    *Entry  `json:"batch,omitempty"`
	Letter   *Letter `json:"dead,omitempty"`
	InFlight *Batch  `json:"in_flight,omitempty"`
	State    string  `json:"state,omitempty"` // of the batch in flight
	// Rejects have the id as their key, among the newest ones.
	Rejects []Reject `json:"rejects"`
	Looked  int      `json:"looked"`
}

// Found reports whether anything was found.
func (f *FindPage) Found() bool {
	return f.Batch != nil || f.Letter != nil || f.InFlight != nil || len(f.Rejects) > 0
}

// flying is a batch in flight with the name of its state.
type flying struct {
	batch *Batch
	state string
}

func buildFind(ctx context.Context, p *pipe, r *http.Request) (model, error) {
	d := &FindPage{Common: newCommon(), ID: strings.TrimSpace(r.FormValue("id")), Rejects: []Reject{}, Looked: rejectsLooked}
	if d.ID == "" {
		return d, nil
	}
	rejects := ask(p, p.postgres, "the rejects", "key "+d.ID, func(ctx context.Context) ([]Reject, error) { return p.ledger.rejectsByKey(ctx, d.ID) })
	wanted := []refresher{rejects}
	var entry *reading[*Entry]
	var letter *reading[letterPage]
	var flight *reading[flying]
	if isUUID(d.ID) {
		id := strings.ToLower(d.ID)
		entry = ask(p, p.postgres, "the ledger", "find "+id, func(ctx context.Context) (*Entry, error) { return p.ledger.readBatch(ctx, id) })
		letter = ask(p, p.redis, "the dead letters", "find "+id, func(ctx context.Context) (letterPage, error) {
			return p.readLetters(ctx, letterQuery{wanted: 1, looked: 1, bytes: oneBytes, id: id})
		})
		flight = ask(p, p.redis, "the batches in flight", "find "+id, func(ctx context.Context) (flying, error) { return p.readFlying(ctx, id) })
		wanted = append(wanted, entry, letter, flight)
	}
	await(ctx, wanted...)
	if found := take(&d.Common, rejects); found != nil {
		for _, x := range *found {
			d.Rejects = append(d.Rejects, *p.h.shown(x))
		}
	}
	if entry == nil {
		return d, nil
	}
	if found := take(&d.Common, entry); found != nil {
		d.Batch = *found
	}
	if found := take(&d.Common, letter); found != nil && len(found.letters) > 0 {
		d.Letter = &found.letters[0]
	}
	if found := take(&d.Common, flight); found != nil {
		d.InFlight, d.State = found.batch, found.state
	}
	return d, nil
}

// stateNames are the states of a batch as its hash has them.
var stateNames = map[string]string{
	"L": "leased", "S": "about to be split or buried", "R": "waiting for redelivery", "H": "handed off", "B": "broken",
}

// readFlying reads a batch of the queue without its records.
func (p *pipe) readFlying(ctx context.Context, id string) (flying, error) {
	fields := []string{"st", "att", "n", "root", "off", "fails", "crashes", "sealed", "first", "worker", "reason"}
	values, err := p.Redis.Do(ctx, p.Redis.B().Arbitrary("HMGET").Keys(p.key("m:"+id)).Args(fields...).Build()).ToArray()
	if err != nil {
		return flying{}, fmt.Errorf("console: batch %s: %w", id, err)
	}
	m := member{id: id, fields: make([]string, len(values))}
	for i := range values {
		m.fields[i], _ = values[i].ToString() // an absent field is empty
	}
	if len(m.fields) == 0 || m.fields[0] == "" {
		return flying{}, nil
	}
	b, err := parseBatch(m)
	if err != nil {
		return flying{}, err
	}
	return flying{&b, stateNames[m.fields[0]]}, nil
}
