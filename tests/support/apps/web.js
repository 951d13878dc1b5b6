// Node's HTTP server, unmodified: it answers with the headers it was given, one line, `saw` and a JSON object.
'use strict';
const http = require('http');

http.createServer((request, answer) => {
  request.resume().on('end', () => {
    answer.end(`saw ${JSON.stringify({ PATH_INFO: request.url, ...request.headers })}\n`);
  });
}).listen(Number(process.argv[2]));
