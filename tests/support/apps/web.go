// Go's HTTP server, unmodified: it answers with the headers it was given, one line, `saw` and a JSON object.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
)

func answer(to http.ResponseWriter, request *http.Request) {
	io.Copy(io.Discard, request.Body)
	shown := map[string]string{"PATH_INFO": request.RequestURI}
	for name, values := range request.Header {
		shown[name] = strings.Join(values, ", ")
	}
	line, _ := json.Marshal(shown)
	fmt.Fprintf(to, "saw %s\n", line)
}

func main() {
	log.Fatal(http.ListenAndServe(":"+os.Args[1], http.HandlerFunc(answer)))
}
