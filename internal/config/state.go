package config

// StateDir returns the directory that a value of --state stands for, in an
// environment in the form of [os.Environ]: the default for "", and "" for
// "none".
func StateDir(value string, environ []string) (string, error) {
	return stateDir(value, environment(environ))
}
