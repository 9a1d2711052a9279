package staging

// SetHook makes f run at the named points of Stage, Promote, Void and Fates.
func (t *Table[T]) SetHook(f func(point string) error) { t.hook = f }

// Staging returns the quoted names of the two staging tables, and of the two registries.
func (t *Table[T]) Staging() (staging, registry [2]string) { return t.staging, t.registry }
