# ffmpeg: generated pictures and sound are encoded and decoded; every frame must be the same.
. ./prelude.sh
seconds=2
if nightly; then seconds=20; fi
ffmpeg() {
    protected /usr/bin/ffmpeg -nostdin -hide_banner -loglevel error "$@"
}
ffmpeg -f lavfi -i "testsrc=duration=$seconds:size=640x360:rate=25" -f lavfi -i "sine=frequency=440:duration=$seconds" \
    -c:v mpeg4 -threads 2 -flags +bitexact -fflags +bitexact -c:a aac -b:v 800k movie.mp4
ffmpeg -i movie.mp4 -vf scale=320:180,hqdn3d -an -f framemd5 - | tail -n 5
ffmpeg -i movie.mp4 -c:v ffv1 -c:a flac copy.mkv
ffmpeg -i copy.mkv -map 0:v -f md5 -
