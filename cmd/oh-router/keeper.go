package main

import "sync"

// keeper makes a value for each key, once.
type keeper[K comparable, V any] struct {
	mu   sync.Mutex // guards made
	made map[K]V
}

func (k *keeper[K, V]) get(key K, build func() V) V {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, ok := k.made[key]
	if !ok {
		if k.made == nil {
			k.made = make(map[K]V)
		}
		v = build()
		k.made[key] = v
	}
	return v
}
