package main

// Help is shown below the first line of each verb's -h.

// Help shows an example.
func (initCache) Help() string { return "Example:\n\n  headrace init-cache currencies" }

// Help shows an example.
func (generate) Help() string {
	return "Example:\n\n  headrace generate --orders 100000 --bad 0.01"
}

// Help shows an example.
func (process) Help() string { return "Example:\n\n  headrace process --empty --workers 4" }

// Help shows an example.
func (promote) Help() string { return "Example:\n\n  headrace promote --empty" }

// Help shows an example.
func (benchmark) Help() string { return "Example:\n\n  headrace benchmark --total 200000 --json" }

// Help shows an example.
func (stats) Help() string { return "Example:\n\n  headrace stats --watch 5" }

// Help shows an example.
func (peek) Help() string { return "Example:\n\n  headrace peek ready -n 3" }

// Help shows an example.
func (deadList) Help() string { return "Example:\n\n  headrace dead list -n 50" }

// Help shows an example.
func (deadShow) Help() string {
	return "Example:\n\n  headrace dead show 01890a5d-ac96-774b-bcce-b302099a8057"
}

// Help shows an example.
func (deadRequeue) Help() string { return "Example:\n\n  headrace dead requeue --all" }

// Help shows an example.
func (deadDiscard) Help() string {
	return "Example:\n\n  headrace dead discard 01890a5d-ac96-774b-bcce-b302099a8057"
}

// Help shows an example.
func (rejectList) Help() string { return "Example:\n\n  headrace rejects list --code unknown_product" }

// Help shows an example.
func (rejectCodes) Help() string { return "Example:\n\n  headrace rejects codes" }

// Help shows an example.
func (rejectShow) Help() string { return "Example:\n\n  headrace rejects show 17" }

// Help shows an example.
func (rejectResolve) Help() string { return "Example:\n\n  headrace rejects resolve 17 18" }

// Help shows an example.
func (rejectReplay) Help() string {
	return "Example:\n\n  headrace rejects replay 17 --file corrected.json"
}

// Help shows an example.
func (pause) Help() string { return "Example:\n\n  headrace pause --queue orders" }

// Help shows an example.
func (resume) Help() string { return "Example:\n\n  headrace resume --queue orders" }

// Help shows an example.
func (audit) Help() string { return "Example:\n\n  headrace audit || echo \"the books are off\"" }

// Help shows an example.
func (prune) Help() string { return "Example:\n\n  headrace prune --before 720h" }

// Help shows an example.
func (viewList) Help() string { return "Example:\n\n  headrace views list" }

// Help shows an example.
func (viewRefresh) Help() string { return "Example:\n\n  headrace views refresh" }

// Help shows an example.
func (schemaPrint) Help() string {
	return "Example:\n\n  headrace schema print --companions > companions.sql"
}

// Help shows an example.
func (schemaCheck) Help() string {
	return "Example:\n\n  headrace schema check --role worker --table shop.items"
}

// Help shows an example.
func (doctor) Help() string { return "Example:\n\n  headrace doctor" }

// Help shows an example.
func (clear) Help() string { return "Example:\n\n  headrace clear dedup" }

// Help shows an example.
func (lookupList) Help() string { return "Example:\n\n  headrace lookups list" }

// Help shows an example.
func (lookupRefresh) Help() string { return "Example:\n\n  headrace lookups refresh products" }

// Help shows an example.
func (grantsPrint) Help() string {
	return "Example:\n\n  headrace grants print app --role worker --table shop.items | psql"
}
