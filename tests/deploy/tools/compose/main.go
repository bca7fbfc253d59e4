// Command compose reads compose files as `docker compose config` does, with the library that it
// is made of, and prints the project as JSON: validated against the Compose Specification's
// schema, variables filled in, profiles applied, references between services checked. It needs no
// Docker.
//
//	compose [-profile NAME]... FILE...
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
)

type names []string

func (n *names) String() string { return strings.Join(*n, ",") }

func (n *names) Set(name string) error {
	*n = append(*n, name)
	return nil
}

func main() {
	var profiles names
	flag.Var(&profiles, "profile", "a profile to enable")
	flag.Parse()
	if err := run(profiles, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "compose:", err)
		os.Exit(1)
	}
}

func run(profiles, files []string) error {
	options, err := cli.NewProjectOptions(files, cli.WithOsEnv, cli.WithProfiles(profiles))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(project)
}
