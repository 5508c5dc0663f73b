# Hashes, regular expressions, sorting, interpreter threads and forks.
use strict;
use warnings;
use threads;
use Digest::SHA qw(sha1_hex);

$| = 1;

my $state = 1;

sub number {
    $state = ( $state * 1103515245 + 12345 ) % 2147483648;
    return $state >> 8;
}

my %words;
for ( 1 .. 60_000 ) {
    my $word = sprintf( "%x", number() % 5000 );
    push @{ $words{$word} }, $_ x ( number() % 4 );
}
my $listing = join( "\n", map { "$_ @{ $words{$_} }" } sort keys %words );
print "hash ", scalar( keys %words ), " ", sha1_hex($listing), "\n";

my $count = () = $listing =~ /(\d)\1/g;
( my $turned = $listing ) =~ s/(\w+) (\w+)/$2 $1/g;
print "regex $count ", sha1_hex($turned), "\n";

my @sorted = sort { length($a) <=> length($b) or $a cmp $b } split /\s+/, $turned;
print "sort ", sha1_hex("@sorted"), "\n";

my $long = "";
$long .= chr( 65 + number() % 26 ) x ( number() % 300 ) for 1 .. 5000;
print "string ", length($long), " ", sha1_hex( scalar reverse $long ), "\n";

my @crew = map {
    my $place = $_;
    threads->create(
        sub {
            my %table = map { $_ => "$place" x ( $_ % 50 ) } 1 .. 5000;
            return sha1_hex( join ",", map { $table{$_} } sort { $a <=> $b } keys %table );
        }
    )
} 1 .. 4;
print "thread ", $_->join, "\n" for @crew;

for my $child ( 1 .. 40 ) {
    my $pid = fork;
    if ( !$pid ) {
        my @list = map { "x" x $_ } 1 .. 500;
        exit( $child + @list - 500 );
    }
    waitpid( $pid, 0 );
    print $? >> 8, " ";
}
print "\n";
